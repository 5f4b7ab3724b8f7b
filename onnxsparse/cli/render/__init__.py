"""What people and machines read: facts, step reports and comparisons rendered."""
