module github.com/loopbackd/loopback

go 1.26.0
