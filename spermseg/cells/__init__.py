"""From probability maps to masks, instances, measures and confidence."""
