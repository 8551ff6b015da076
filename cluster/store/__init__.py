"""The durable record behind the board: the port and its adapters."""
