"""Files that are damaged, and disks that are full or fail."""
