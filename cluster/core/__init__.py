"""The pure core: what a job is, which moves it may make, and who decides. No I/O, no clock, no thread."""
