"""What is looked at: dashboards and alarms, as code."""
