"""Folders of this machine, and of shared disks."""
