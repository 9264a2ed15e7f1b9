"""From runs to one page."""
