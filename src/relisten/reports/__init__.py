"""What people look at: tables, charts, pages and text for a terminal. No model is loaded here."""
