"""Who may ask, and how much: TLS, tokens and rates."""
