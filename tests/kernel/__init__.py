"""What only a kernel of one's own shows: that it holds jobs to the limits of their cgroup."""
