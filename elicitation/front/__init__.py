"""What `import elicitation as el` offers beyond the floors' own names: strings for values, tables for results."""
