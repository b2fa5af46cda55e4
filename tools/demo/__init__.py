"""`make demo`: one evening in and around Delhi, on the real services and servers.

Captains and customers here are phones: they know the HTTP and WebSocket contracts and nothing else. This
package must never touch a service's tables or import a service.
"""
