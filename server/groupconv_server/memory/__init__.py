"""Memory that clients share with the server, and settings of the process's own memory."""
