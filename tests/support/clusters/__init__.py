"""Ray clusters that tests start by themselves."""
