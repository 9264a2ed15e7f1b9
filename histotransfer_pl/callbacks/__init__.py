"""Lightning callbacks: writers, dashboard, run record."""
