"""Feature maps in bands of rows."""
