"""Who may come in, how many, and how long they wait."""
