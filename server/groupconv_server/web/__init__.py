"""The web port: gRPC-Web, Connect and the page, over HTTP for browsers."""
