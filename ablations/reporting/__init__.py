"""What a study found: statistics, tables, figures and pages."""
