#!/bin/sh
# Looks for known vulnerabilities in what we depend on, where the database of them can be reached; says so where not.
set -eu

out=$(mktemp)
trap 'rm -f "$out"' EXIT
check() { go tool -modfile=tools/check/go.mod govulncheck "$@" >"$out" 2>&1; }

# A small package first: it tells in a moment whether the database can be reached.
if check ./fault && check ./...; then
	echo "govulncheck: no known vulnerability"
elif grep -qiE 'fetching vulnerabilities|dial tcp|no such host|forbidden|connection refused|i/o timeout' "$out"; then
	echo "govulncheck: skipped, its database cannot be reached from here"
else
	cat "$out"
	exit 1
fi
