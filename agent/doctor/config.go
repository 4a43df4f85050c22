package doctor

import (
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/loopbackd/loopback/agent/config"
)

func checkConfig(path string) (config.Config, Check) {
	c, err := config.Read(path)
	if err != nil {
		wrong := failed("config", path, err)
		if wrong.Change == "" {
			wrong.Change = "mend " + path + "; its settings: docs/guides/install.md, agent.yaml"
		}
		return c, wrong
	}
	allowed := []string{}
	for name, on := range map[string]bool{"exec": c.Allow.Exec, "shell": c.Allow.Shell, "files": c.Allow.Files, "power": c.Allow.Power} {
		if on {
			allowed = append(allowed, name)
		}
	}
	ceiling := "nothing"
	if len(allowed) > 0 {
		ceiling = strings.Join(allowed, ", ")
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o022 != 0 {
		return c, Check{Name: "config", About: path, Outcome: Failed, Code: "config_permission",
			Seen:   fmt.Sprintf("the mode is %04o: others than root may change what the control plane is allowed", info.Mode().Perm()),
			Change: "chmod 600 " + path}
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o044 != 0 && withPassword(c.Proxy) {
		return c, Check{Name: "config", About: path, Outcome: Failed, Code: "config_permission",
			Seen:   fmt.Sprintf("the mode is %04o: others than root may read the proxy's password", info.Mode().Perm()),
			Change: "chmod 600 " + path + ", and change the password"}
	}
	return c, fine("config", path, "%d endpoints; the ceiling allows %s", len(c.Endpoints), ceiling)
}

func withPassword(proxy string) bool {
	u, err := url.Parse(proxy)
	if err != nil {
		return false
	}
	_, has := u.User.Password()
	return has
}
