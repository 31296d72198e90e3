"""A stand-in for Discord: its REST API and its gateway, for as many bots' libraries as take it for the real one."""
