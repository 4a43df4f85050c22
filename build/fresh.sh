#!/bin/sh
# Fails where committed generated files are not what generation gives now.
set -eu

before=$(git status --porcelain)
make --no-print-directory generate
after=$(git status --porcelain)
if [ "$before" != "$after" ]; then
	echo "generated files are out of date; run make generate and commit:" >&2
	git status --porcelain >&2
	exit 1
fi
