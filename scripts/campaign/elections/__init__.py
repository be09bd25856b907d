"""Who may write: elections amid mischief, and how long they take."""
