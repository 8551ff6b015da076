"""What rooms say to one another: messages, desks as interfaces, and (later) the transport."""
