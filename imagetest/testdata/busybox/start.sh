#!/bin/sh
# Writes a page with busybox's own tools and serves it.
set -eu
mkdir -p /tmp/www
{ echo "busybox"; busybox | head -n1; echo "user $(id -u)"; uname -sr; } > /tmp/www/index.html
echo "serving on port 8080"
exec httpd -f -p 8080 -h /tmp/www
