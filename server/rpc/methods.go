package rpc

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/loopbackd/loopback/access"
	v1 "github.com/loopbackd/loopback/api/loopback/v1"
)

// files are the .proto files with services in them.
var files = []protoreflect.FileDescriptor{
	v1.File_loopback_v1_apikey_proto,
	v1.File_loopback_v1_audit_proto,
	v1.File_loopback_v1_change_proto,
	v1.File_loopback_v1_command_proto,
	v1.File_loopback_v1_exec_proto,
	v1.File_loopback_v1_file_proto,
	v1.File_loopback_v1_grant_proto,
	v1.File_loopback_v1_guest_proto,
	v1.File_loopback_v1_host_proto,
	v1.File_loopback_v1_invitation_proto,
	v1.File_loopback_v1_lock_proto,
	v1.File_loopback_v1_operation_proto,
	v1.File_loopback_v1_passkey_proto,
	v1.File_loopback_v1_policy_proto,
	v1.File_loopback_v1_principal_proto,
	v1.File_loopback_v1_provider_proto,
	v1.File_loopback_v1_release_proto,
	v1.File_loopback_v1_replica_proto,
	v1.File_loopback_v1_review_proto,
	v1.File_loopback_v1_sessionreview_proto,
	v1.File_loopback_v1_settings_proto,
	v1.File_loopback_v1_shell_proto,
	v1.File_loopback_v1_signin_proto,
	v1.File_loopback_v1_sink_proto,
	v1.File_loopback_v1_tenant_proto,
	v1.File_loopback_v1_token_proto,
}

// Method is one method of the API.
type Method struct {
	Procedure  string // "/loopback.v1.TokenService/MintToken"
	Permission access.Permission
	Descriptor protoreflect.MethodDescriptor
}

// Methods are all methods of the API, in the order of the .proto files.
func Methods() []Method {
	var out []Method
	for _, f := range files {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				p, _ := proto.GetExtension(m.Options(), v1.E_Permission).(string)
				out = append(out, Method{
					Procedure:  fmt.Sprintf("/%s/%s", s.FullName(), m.Name()),
					Permission: access.Permission(p),
					Descriptor: m,
				})
			}
		}
	}
	return out
}

// permissionsByProcedure panics where a method has no permission, or one that is not declared: that is a defect which
// must not survive the first start of a program, and does not survive the tests.
func permissionsByProcedure() map[string]access.Permission {
	declared := map[access.Permission]bool{}
	for _, p := range Permissions {
		declared[p.Name] = true
	}
	out := map[string]access.Permission{}
	for _, m := range Methods() {
		if !declared[m.Permission] {
			panic(fmt.Sprintf("rpc: method %s needs permission %q, which is not declared", m.Procedure, m.Permission))
		}
		out[m.Procedure] = m.Permission
	}
	return out
}
