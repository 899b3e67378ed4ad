"""Starts everything on one machine: Postgres, Supabase's REST and Auth APIs, and the app. Never deployed."""
