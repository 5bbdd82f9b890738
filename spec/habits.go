package spec

// What people know from elsewhere, and what to write here.

// habit is advice for a key that Compose has and a spec doesn't have in that place.
// place is the schema's definition that it stands in; "" of the deployment itself.
func habit(place, key string) string {
	switch place {
	case "container", "vm":
		if advice, ok := workloadHabits()[key]; ok {
			return advice
		}
		if place == "vm" {
			return machineHabits()[key]
		}
		return containerHabits()[key]
	case "":
		return map[string]string{
			"services": "write workloads: a list, each with a name",
			"version":  "write apiVersion: " + APIVersion,
			"volumes":  "data that outlives a workload has to wait for storage; the disk of a workload is lost with its image or node",
			"configs":  "write files: in the workload that reads them",
			"secrets":  "write secrets: in the workload that reads them",
			"replicas": "write it in the workload",
			"strategy": "write update: {strategy: rolling}",
			"rollback": "write update: {onFailure: return}",
		}[key]
	case "health":
		return map[string]string{
			"test":           `write exec: ["/bin/check"], tcp: 5432, or http: "8080/healthz"`,
			"start_period":   "write start: 30s",
			"start_interval": "failures don't count for as long as start says",
			"disable":        "leave health out",
			"port":           "write tcp: 5432",
			"path":           `write http: "8080/healthz"`,
		}[key]
	case "update":
		return map[string]string{
			"parallelism":     "write maxUnavailable: 1",
			"max_unavailable": "write maxUnavailable: 1",
			"failure_action":  "write onFailure: return",
			"on_failure":      "write onFailure: return",
			"monitor":         "write deadline: 5m",
			"order":           "each workload ends in its old version before it starts in the new one",
			"delay":           "the next one waits until the one before is ready: see health",
		}[key]
	case "file":
		return map[string]string{"source": "write from: FILE", "target": "write path: /…", "uid": "files are root's", "gid": "files are root's"}[key]
	case "secret":
		return map[string]string{"source": "write from: env:NAME, or from: file:PATH", "target": "write path: /run/secrets/…", "file": "write from: file:PATH",
			"environment": "write from: env:NAME", "value": "write from: env:NAME: a value in a spec is no secret", "content": "write from: file:PATH: a value in a spec is no secret"}[key]
	}
	return ""
}

func workloadHabits() map[string]string {
	const resources = "write resources: {cpu: 0.5, memory: 128MiB, pids: 64}"
	const capabilities = "a container has no capabilities; one in a micro-VM has all of them with privileged: true"
	return map[string]string{
		"healthcheck":       `write health: {http: "8080/healthz"}, {tcp: 5432} or {exec: ["/bin/check"]}`,
		"environment":       "write env: {NAME: value}",
		"env_file":          "write the variables under env:, and those that are secret under secrets:",
		"deploy":            "write replicas and resources in the workload itself, and update: in the deployment",
		"scale":             "write replicas: 3",
		"update_config":     "write update: {strategy: rolling} in the deployment",
		"update":            "write it in the deployment: all of it is updated as one",
		"stop_grace_period": "write stop: {grace: 10s}",
		"stop_signal":       "write stop: {signal: SIGTERM}",
		"volumes":           "small files are files:, values that are secret are secrets:; data that outlives the workload has to wait for storage",
		"tmpfs":             "small files in memory are files:; everything else that is written goes to the workload's own disk",
		"configs":           "write files: [{path: /etc/app.conf, from: app.conf}]",
		"ports":             "publish it by a workload of kind gateway; within networks every port is open, or what allow says",
		"expose":            "within networks every port is open, or what allow says",
		"cap_add":           capabilities,
		"cap_drop":          "remove it: a container has no capabilities",
		"security_opt":      "remove it: a container gains no privileges unless setuid is true",
		"devices":           "a container has no devices of the node",
		"entrypoint":        `write command: ["/path/to/program", …], which is the whole command line`,
		"args":              `write command: ["/path/to/program", …], which is the whole command line`,
		"working_dir":       "write workdir: /…",
		"container_name":    "write name: it is the host name as well",
		"hostname":          "write name: it is the host name as well",
		"mem_limit":         resources, "cpus": resources, "pids_limit": resources, "memory": resources, "cpu": resources, "disk": resources,
		"depends":       "write depends_on: [NAME]",
		"after":         "write depends_on: [NAME]",
		"restarts":      "write attempts: 5",
		"network_mode":  "write networks: [NAME]",
		"links":         "workloads of one network find each other by their names",
		"dns":           "workloads of one network find each other by their names",
		"extra_hosts":   "workloads of one network find each other by their names",
		"build":         "build it before: zos flist build; and write image: publisher/name:tag",
		"pull_policy":   "an image is pinned to its digest in the plan",
		"platform":      "an image is for the processors that its files are for",
		"init":          "remove it: children that are left behind are reaped",
		"tty":           "run a program at a terminal with: zos exec -it",
		"stdin_open":    "run a program at a terminal with: zos exec -it",
		"read_only":     "the image itself is never written to; how much can be written beside it is resources: {disk: 64MiB}",
		"logging":       "logs are kept by the node: zos logs",
		"labels":        "remove it",
		"ulimits":       resources,
		"runtime":       "write isolation: microvm, namespace or any",
		"sysctls":       "a micro-VM has a kernel of its own: isolation: microvm with privileged: true",
		"cgroup_parent": "remove it",
	}
}

func containerHabits() map[string]string {
	const machine = "write kind: vm for a whole machine"
	return map[string]string{"boot": machine, "cmdline": machine, "disks": machine, "cloudInit": machine}
}

func machineHabits() map[string]string {
	const inside = "a machine starts its own programs: write it into the image, or have cloud-init do it"
	return map[string]string{
		"command": inside, "env": inside, "workdir": inside, "user": inside, "setuid": inside,
		"files":      "cloud-init writes files: cloudInit: {userData: FILE}",
		"isolation":  "remove it: a machine is one of its own always",
		"privileged": "remove it: a machine is one of its own always",
		"deadline":   "a machine is no job: remove it",
		"ssh_keys":   `write cloudInit: {keys: ["ssh-ed25519 …"]}`,
		"user_data":  "write cloudInit: {userData: FILE}",
		"cloud_init": "write cloudInit: {userData: FILE}",
	}
}
