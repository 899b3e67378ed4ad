"""What people look for when they open the catalogue for the first time."""

from __future__ import annotations

#: What somebody types who does not know what is there, and one entry that must be among the first ten.
NEW_USERS = {
    "messaging": ("team chat", "slack"),
    "calendar": ("calendar events", "google-calendar"),
    "crm": ("customers and deals", "hubspot"),
    "email": ("send email", "sendgrid"),
    "storage": ("files", "filesystem-mcp"),
    "payments": ("credit card payments", "stripe"),
    "developer-tools": ("pull requests", "github"),
    "project-management": ("tasks", "todoist-mcp"),
    "support": ("customer support tickets", "zendesk"),
    "analytics": ("product analytics", "mixpanel-mcp"),
    "databases": ("postgres database", "neon-mcp"),
    "ai": ("claude models", "anthropic"),
    "monitoring": ("errors and crashes", "sentry-mcp"),
    "identity": ("sign-in", "clerk-mcp"),
    "commerce": ("online shop orders", "shopify"),
    "design": ("design", "figma-mcp"),
    "search": ("web search", "exa-mcp"),
    "automation": ("automate workflows between apps", "zapier-mcp"),
    "infrastructure": ("hosting and deployments", "vercel-mcp"),
    "documents": ("notes and wiki", "notion-mcp"),
}
