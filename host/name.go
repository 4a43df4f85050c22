package host

import (
	"strconv"
	"strings"
)

// CleanName makes a DNS label out of what a machine calls itself: "Web_1.example.com" becomes "web-1". A machine without a
// usable name is called "host".
func CleanName(s string) string {
	s, _, _ = strings.Cut(s, ".")
	var b strings.Builder
	for _, r := range strings.ToLower(s) {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			b.WriteRune(r)
		case b.Len() > 0 && b.String()[b.Len()-1] != '-':
			b.WriteByte('-')
		}
	}
	out := b.String()
	if len(out) > maxName {
		out = out[:maxName]
	}
	if out = strings.Trim(out, "-"); out == "" {
		return "host"
	}
	return out
}

const maxName = 63

// FreeName finds a name that is not taken: the base itself, or base-2, base-3 … with a number that no other host has.
// It asks about few names even when thousands share a base: it doubles the number until one is free, then halves the gap
// to the last that was taken. So where numbers were never given back the next one is found; where there are holes it may
// be any of them. try is where to begin, 0 where nothing is known: the number given last, plus one.
func FreeName(base string, try int, taken func(name string) (bool, error)) (name string, number int, err error) {
	at := func(n int) string {
		if n <= 1 {
			return base
		}
		suffix := "-" + strconv.Itoa(n)
		return strings.TrimRight(base[:min(len(base), maxName-len(suffix))], "-") + suffix
	}
	if try < 2 {
		if is, err := taken(base); err != nil || !is {
			return base, 1, err
		}
		try = 2
	}
	low, high := 1, try
	for step := 1; ; step *= 2 {
		is, err := taken(at(high))
		if err != nil {
			return "", 0, err
		}
		if !is {
			break
		}
		low, high = high, high+step
	}
	if high == try {
		return at(high), high, nil
	}
	for low+1 < high { // low is taken, high is free
		middle := low + (high-low)/2
		is, err := taken(at(middle))
		if err != nil {
			return "", 0, err
		}
		if is {
			low = middle
		} else {
			high = middle
		}
	}
	return at(high), high, nil
}
