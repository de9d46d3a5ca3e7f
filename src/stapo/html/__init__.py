"""What the static pages share: templates and their filters, style sheet and script, and how figures are drawn."""
