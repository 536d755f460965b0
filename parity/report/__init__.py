"""Results of checks, and how they are shown: tables, JSON and HTML pages."""
