"""The deployment report for machines, spreadsheets, wikis and browsers."""
