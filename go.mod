module github.com/loopbackd/loopback

go 1.26.0

require (
	connectrpc.com/connect v1.21.1
	github.com/spf13/pflag v1.1.0
	go.yaml.in/yaml/v3 v3.0.6
	google.golang.org/protobuf v1.36.12
	pgregory.net/rapid v1.3.0
)
