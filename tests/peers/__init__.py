"""Real far sides for tests, on loopback: HTTP, MCP, TLS, SSH, and servers that misbehave on purpose."""
