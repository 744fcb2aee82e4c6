"""Imported first by a process of a server: the settings of malloc hold before a library starts a thread."""

from groupconv_server.memory.malloc import keep_pages

keep_pages()
