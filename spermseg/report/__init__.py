"""Output for people: the HTML report, figures, tables of scores, the model card, and exports."""
