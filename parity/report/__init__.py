"""What was found, and how it is shown: tables, JSON and pages of HTML."""
