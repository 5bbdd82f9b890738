package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/zero-os/zos/spec/plan"
)

// Parse reads and validates a spec. Its error is an *Error with every mistake.
func Parse(file string, data []byte) (*Deployment, error) {
	s := readSource(file, data)
	if err := s.err(); err != nil {
		return nil, err
	}
	schema, err := compileSchema()
	if err != nil {
		return nil, err
	}
	if err := schema.Validate(s.value); err != nil {
		var v *jsonschema.ValidationError
		if !errors.As(err, &v) {
			return nil, fmt.Errorf("validate %s: %w", file, err)
		}
		s.explain(v)
		return nil, s.err()
	}
	d := s.deployment()
	if err := s.err(); err != nil {
		return nil, err
	}
	d.source = s
	return d, nil
}

// File is the name that Parse was given.
func (d *Deployment) File() string { return d.source.file }

func compileSchema() (*jsonschema.Schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema))
	if err != nil {
		return nil, fmt.Errorf("read the spec's schema: %w", err)
	}
	const name = "zos-v1.json"
	c := jsonschema.NewCompiler()
	if err := c.AddResource(name, doc); err != nil {
		return nil, fmt.Errorf("load the spec's schema: %w", err)
	}
	schema, err := c.Compile(name)
	if err != nil {
		return nil, fmt.Errorf("compile the spec's schema: %w", err)
	}
	return schema, nil
}

// explain turns the schema's findings into mistakes that people understand.
func (s *source) explain(v *jsonschema.ValidationError) {
	if len(v.Causes) > 0 {
		for _, c := range v.Causes {
			s.explain(c)
		}
		return
	}
	pointer := pointerOf(v.InstanceLocation)
	field := "the deployment"
	if n := len(v.InstanceLocation); n > 0 {
		field = fieldOf(v.InstanceLocation)
	}
	where := s.placeOf(pointer)
	switch k := v.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		for _, name := range k.Properties {
			message, fix := explainKey(name, v.SchemaURL)
			s.add(s.keyPlaces[pointer+"/"+escapePointer(name)], message, fix)
		}
	case *kind.Required:
		for _, name := range k.Missing {
			s.add(where, fmt.Sprintf("%q is missing", name), fmt.Sprintf("add a line %s: …", name))
		}
	case *kind.Enum:
		want := make([]string, len(k.Want))
		for i, w := range k.Want {
			want[i] = fmt.Sprint(w)
		}
		fix := "write one of: " + strings.Join(want, ", ")
		if advice := map[string]string{"restart no": "never", "restart unless-stopped": "always", "restart on_failure": "on-failure", "isolation container": "namespace", "isolation none": "namespace", "isolation vm": "microvm", "isolation kata": "microvm", "isolation runc": "namespace",
			"strategy recreate": "replace", "strategy Recreate": "replace", "strategy RollingUpdate": "rolling", "onFailure rollback": "return", "onFailure pause": "keep", "onFailure continue": "keep", "exec all": "members", "exec true": "members", "boot uefi": "disk", "boot bios": "disk", "boot efi": "disk", "signal TERM": "SIGTERM", "signal INT": "SIGINT", "signal HUP": "SIGHUP", "signal QUIT": "SIGQUIT", "signal KILL": "SIGKILL"}[field+" "+fmt.Sprint(k.Got)]; advice != "" {
			fix = fmt.Sprintf("did you mean %q?", advice)
			s.add(where, fmt.Sprintf("%s can't be %q", field, fmt.Sprint(k.Got)), fix)
			return
		}
		if near := Nearest(fmt.Sprint(k.Got), want); len(near) > 0 {
			fix = fmt.Sprintf("did you mean %q?", near[0])
		}
		s.add(where, fmt.Sprintf("%s can't be %q", field, fmt.Sprint(k.Got)), fix)
	case *kind.Const:
		s.add(where, fmt.Sprintf("%s is %q, this program reads %q", field, fmt.Sprint(k.Got), fmt.Sprint(k.Want)), fmt.Sprintf("write %s: %v", field, k.Want))
	case *kind.Pattern:
		message, fix := explainPattern(field, k.Got)
		s.add(where, message, fix)
	case *kind.Type:
		s.add(where, fmt.Sprintf("%s is %s, not %s", field, withArticle(k.Got), withArticle(strings.Join(k.Want, " or "))), explainType(field, k))
	case *kind.MinItems:
		fix := "write at least one"
		if field == "from" {
			fix = "leave from out for everyone in the network; to let nobody in, write allow: []"
		}
		s.add(where, field+" is an empty list", fix)
	case *kind.MaxItems:
		s.add(where, fmt.Sprintf("%s has %d entries, at most %d are allowed", field, k.Got, k.Want), "")
	case *kind.UniqueItems:
		s.add(s.placeOf(fmt.Sprintf("%s/%d", pointer, k.Duplicates[1])), field+" holds this twice", "remove one of the two")
	case *kind.PropertyNames:
		s.add(where, fmt.Sprintf("%q is no name for an environment variable", k.Property), "use letters, digits and _")
	default:
		raw, err := json.Marshal(v.DetailedOutput().Error)
		if err != nil {
			raw = []byte(`"not allowed here"`)
		}
		s.add(where, fmt.Sprintf("%s: %s", field, strings.Trim(string(raw), `"`)), "")
	}
}

// explainKey says what is wrong with a key that a place of the schema doesn't
// know.
func explainKey(name, schemaURL string) (message, fix string) {
	known := propertiesOf(schemaURL)
	message, fix = fmt.Sprintf("unknown key %q", name), "known here: "+strings.Join(known, ", ")
	if near := Nearest(name, known); len(near) > 0 {
		fix = fmt.Sprintf("did you mean %q?", near[0])
	}
	if name == "ingress" { // which is near to egress, and means the opposite
		fix = `did you mean "allow"?`
	}
	const container, gateway = "#/definitions/container", "#/definitions/gateway"
	_, where, _ := strings.Cut(schemaURL, "#")
	where = strings.TrimPrefix(where, "/definitions/")
	if advice := habit(strings.TrimSuffix(where, "/"), name); advice != "" {
		return message, advice
	}
	if strings.HasSuffix(where, "/access") { // its properties are in their own place of a workload
		if class := map[string]string{"console": "a container has no console of its own: let members exec", "exec": "nothing inside a machine runs programs for its node: let members use its console, or log in over the network",
			"files": "nothing inside a machine copies files for its node: copy them over the network"}[name]; class != "" {
			return message, class
		}
	}
	switch {
	case strings.HasSuffix(schemaURL, "#/definitions/vm") && slices.Contains(propertiesOf(gateway), name):
		return fmt.Sprintf("a machine has no %q", name), "publish it by a workload of kind gateway"
	case strings.HasSuffix(schemaURL, container) && slices.Contains(propertiesOf(gateway), name):
		return fmt.Sprintf("a container has no %q", name), "publish it by a workload of kind gateway"
	case strings.HasSuffix(schemaURL, gateway) && name == "networks":
		return `a gateway has no "networks"`, "remove it: a gateway is in the networks of what it publishes"
	case strings.HasSuffix(schemaURL, gateway) && slices.Contains(propertiesOf(container), name):
		return fmt.Sprintf("a gateway has no %q", name), "remove it: every node has the gateway's program, and a share of it for each"
	}
	return message, fix
}

func withArticle(word string) string {
	if strings.ContainsAny(word[:min(1, len(word))], "aeiou") {
		return "an " + word
	}
	return "a " + word
}

// fieldOf names what stands at a place: its key, or what its list is made of.
func fieldOf(location []string) string {
	last := location[len(location)-1]
	if _, err := strconv.Atoi(last); err != nil || len(location) < 2 {
		return last
	}
	list := location[len(location)-2]
	one := map[string]string{
		"workloads": "workload", "networks": "network", "aliases": "alias", "allow": "rule", "from": "name in from", "command": "argument",
		"publish": "entry of publish", "disks": "disk", "files": "file", "secrets": "secret", "keys": "SSH key", "depends_on": "name in depends_on", "exec": "argument",
	}[list]
	if one == "" {
		return list
	}
	return one
}

// propertiesOf lists the keys known at a place of the schema.
func propertiesOf(schemaURL string) []string {
	var doc map[string]any
	if json.Unmarshal(Schema, &doc) != nil {
		return nil
	}
	_, fragment, _ := strings.Cut(schemaURL, "#")
	node := any(doc)
	for _, token := range strings.Split(strings.Trim(fragment, "/"), "/") {
		m, ok := node.(map[string]any)
		if token == "" || !ok {
			break
		}
		node = m[token]
	}
	m, _ := node.(map[string]any)
	props, _ := m["properties"].(map[string]any)
	names := make([]string, 0, len(props))
	for n := range props {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

func explainPattern(field, got string) (message, fix string) {
	switch field {
	case "memory", "disk":
		return fmt.Sprintf("%s %q is no size", field, got), suggestQuantity(got)
	case "ports":
		return fmt.Sprintf("%q is no port, and no range of ports", got), suggestPorts(got)
	case "bandwidth":
		return fmt.Sprintf("bandwidth %q is no rate", got), suggestBandwidth(got)
	case "port":
		return fmt.Sprintf("%q is no public port", got), suggestPort(got)
	case "check":
		return fmt.Sprintf("%q is no check", got), "write tcp, none, or the path that is asked for, like /healthz"
	case "image":
		return fmt.Sprintf("%q names no image", got), "write publisher/name:tag or the 64 hex digits of a flist"
	case "user":
		return fmt.Sprintf("user %q is not numeric", got), `write "1000" or "1000:1000"`
	case "interval", "timeout", "start", "deadline", "grace":
		return fmt.Sprintf("%s %q is no time", field, got), suggestDuration(got)
	case "http":
		return fmt.Sprintf("%q is no port and path", got), suggestHTTP(got)
	case "mode":
		return fmt.Sprintf("mode %q is no permissions", got), `write them in octal and in quotes, like "0644"`
	case "from":
		return fmt.Sprintf("%q is no place to read a secret from", got), suggestFrom(got)
	case "env":
		return fmt.Sprintf("%q is no name for an environment variable", got), "use letters, digits and _"
	case "path":
		return fmt.Sprintf("path %q is not absolute", got), "start it with /"
	case "serial":
		return fmt.Sprintf("%q can't be a serial", got), "use 1 to 20 of a-z, 0-9 and -"
	case "SSH key":
		return "this SSH key is not one line of printing ASCII", "write what stands in the .pub file"
	case "size":
		return fmt.Sprintf("%s %q is no size", field, got), suggestQuantity(got)
	case "workdir":
		return fmt.Sprintf("workdir %q is not an absolute path", got), "start it with /"
	default:
		if plan.ValidName(got) {
			return fmt.Sprintf("%q is too long for a network", got), fmt.Sprintf("use at most %d characters", plan.MaxNetworkName)
		}
		return fmt.Sprintf("%q can't be %s", got, withArticle(field)), "use 1 to 63 of a-z, 0-9 and -"
	}
}

// suggestQuantity guesses what a size in another unit was meant to be.
func suggestQuantity(got string) string {
	digits := strings.TrimRight(got, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
	if _, err := strconv.ParseUint(digits, 10, 32); err == nil && digits != "" {
		if unit := strings.ToUpper(strings.TrimSpace(got[len(digits):])); unit != "" && strings.ContainsAny(unit[:1], "KMGT") {
			return fmt.Sprintf("did you mean %q?", digits+unit[:1]+"iB")
		}
	}
	return "write a whole number with KiB, MiB, GiB or TiB, like 64MiB"
}

// suggestPorts guesses what ports written as elsewhere were meant to be.
func suggestPorts(got string) string {
	ports, protocol, _ := strings.Cut(got, "/")
	if protocol = strings.ToLower(protocol); protocol == "" {
		protocol = plan.ProtocolTCP
	}
	guess := fmt.Sprintf("%s/%s", ports, protocol)
	switch {
	case strings.EqualFold(got, "icmp") || strings.EqualFold(got, "ping"):
		return `did you mean "icmp"?`
	case strings.Contains(got, ":"):
		return "no port is mapped here: write the workload's own, like 5432/tcp"
	case protocol != plan.ProtocolTCP && protocol != plan.ProtocolUDP:
		return "the protocols are tcp and udp; icmp stands alone"
	case guess != got && !strings.ContainsFunc(ports, func(r rune) bool { return (r < '0' || r > '9') && r != '-' }):
		return fmt.Sprintf("did you mean %q?", guess)
	}
	return "write a port or a range with its protocol, like 5432/tcp or 8000-8010/udp"
}

// suggestBandwidth guesses what a rate in another unit was meant to be.
func suggestBandwidth(got string) string {
	digits := strings.TrimRight(got, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ/ ")
	if n, err := strconv.ParseUint(digits, 10, 16); err == nil && n > 0 {
		switch strings.ToLower(strings.TrimSpace(got[len(digits):])) {
		case "k", "kbps", "kb", "kbit", "kbit/s":
			return fmt.Sprintf("did you mean \"%dkbit\"?", n)
		case "m", "mbps", "mb", "mbit", "mbit/s":
			return fmt.Sprintf("did you mean \"%dMbit\"?", n)
		case "g", "gbps", "gb", "gbit", "gbit/s":
			return fmt.Sprintf("did you mean \"%dGbit\"?", n)
		}
	}
	return "write a whole number with kbit, Mbit or Gbit, like 100Mbit"
}

// suggestDuration guesses what a time written as elsewhere was meant to be.
func suggestDuration(got string) string {
	words := strings.ToLower(strings.ReplaceAll(got, " ", ""))
	for _, unit := range [][2]string{{"milliseconds", "ms"}, {"millis", "ms"}, {"seconds", "s"}, {"second", "s"}, {"secs", "s"}, {"sec", "s"}, {"minutes", "m"}, {"minute", "m"}, {"mins", "m"}, {"min", "m"}, {"hours", "h"}, {"hour", "h"}} {
		if n, ok := strings.CutSuffix(words, unit[0]); ok {
			words = n + unit[1]
			break
		}
	}
	if n, ok := strings.CutSuffix(words, "d"); ok {
		if days, err := strconv.ParseUint(n, 10, 16); err == nil {
			words = fmt.Sprintf("%dh", days*24)
		}
	}
	if _, err := strconv.ParseUint(words, 10, 32); err == nil {
		words += "s"
	}
	if d, err := time.ParseDuration(words); err == nil && d >= 0 && words != got {
		return fmt.Sprintf("did you mean %q?", words)
	}
	return "write whole numbers with ms, s, m or h, like 10s or 1m30s"
}

// suggestHTTP guesses which port and path were meant.
func suggestHTTP(got string) string {
	for _, p := range []string{"http://", "https://"} {
		got = strings.TrimPrefix(got, p)
	}
	host, rest, _ := strings.Cut(got, "/")
	if _, port, ok := strings.Cut(host, ":"); ok {
		if _, err := strconv.ParseUint(port, 10, 16); err == nil {
			return fmt.Sprintf("did you mean %q? It is asked inside the workload", strings.TrimSuffix(port+"/"+rest, "/"))
		}
	}
	return `write the port and the path, like "8080/healthz"`
}

// suggestFrom guesses where a secret was meant to come from.
func suggestFrom(got string) string {
	name := strings.Trim(strings.TrimPrefix(got, "$"), "{}")
	if got != name && name != "" && !strings.ContainsAny(name, "/. ") {
		return fmt.Sprintf("did you mean %q?", "env:"+name)
	}
	if strings.ContainsAny(got, "/.") && !strings.Contains(got, ":") {
		return fmt.Sprintf("did you mean %q?", "file:"+got)
	}
	return "write env:NAME, or file:PATH; a value in a spec is no secret"
}

func explainType(field string, k *kind.Type) string {
	switch {
	case field == "memory" || field == "disk" || field == "size":
		return "write a whole number with KiB, MiB, GiB or TiB, like 64MiB"
	case field == "ports" && k.Got == "array":
		return "write an entry of allow for each, like - ports: 80/tcp"
	case (field == "interval" || field == "timeout" || field == "start" || field == "deadline" || field == "grace") && k.Got == "number":
		return "write it with its unit, like 10s"
	case field == "http" && k.Got == "number":
		return `put it in quotes: "8080", or with a path "8080/healthz"`
	case field == "tcp":
		return "write the port alone, like 5432"
	case field == "exec" && k.Got == "string":
		return `write a list: ["/bin/check", "argument"]`
	case field == "mode":
		return `put it in quotes, like "0644"`
	case field == "depends_on":
		return "write a list of names: depends_on: [db]; it waits until they are ready"
	case field == "restart" && k.Got == "boolean":
		return `write never, on-failure or always`
	case field == "env" && k.Got == "array":
		return "write a mapping: {NAME: value}"
	case field == "health":
		return `write a mapping: {http: "8080/healthz"}, {tcp: 5432} or {exec: ["/bin/check"]}`
	case field == "update":
		return "write a mapping: {strategy: rolling}"
	case field == "stop":
		return "write a mapping: {signal: SIGTERM, grace: 10s}"
	case field == "file" || field == "secret":
		return "write a mapping with its keys, like {" + map[string]string{"file": "path: /etc/app.conf, from: app.conf", "secret": "name: password, env: PASSWORD, from: \"env:PASSWORD\""}[field] + "}"
	case field == "port":
		return "write a port with its protocol, like 5432/tcp; or tcp or udp for one that is free"
	case field == "to":
		return "write the workload and its port, like web:8080"
	case field == "publish" && k.Got == "object":
		return "write a list: - host: NAME"
	case field == "ports":
		return "write a port or a range with its protocol, like 5432/tcp or 8000-8010/udp"
	case field == "networks" && k.Got == "object":
		return "write a list: - name: NAME"
	case field == "network":
		return "write a network's name, or a mapping with its name: {name: NAME, allow: […]}"
	case field == "bandwidth":
		return "write a whole number with kbit, Mbit or Gbit, like 100Mbit"
	case len(k.Want) == 1 && k.Want[0] == "string":
		return "put the value in quotes"
	}
	return ""
}

// deployment reads a value that the schema accepted, and checks what a schema
// can't say.
func (s *source) deployment() *Deployment {
	root := s.value.(map[string]any)
	d := &Deployment{Name: text(root["name"]), Group: text(root["group"]), Update: s.update(root)}
	d.Networks = s.networks(root)
	first := map[string]int{}
	for i, item := range root["workloads"].([]any) {
		w := s.workload(item.(map[string]any), fmt.Sprintf("/workloads/%d", i), d.Networks)
		if j, twice := first[w.Name]; twice {
			s.add(s.placeOf(fmt.Sprintf("/workloads/%d/name", i)),
				fmt.Sprintf("the name %q is taken by the workload in line %d", w.Name, s.placeOf(fmt.Sprintf("/workloads/%d/name", j)).line),
				"give each workload a name of its own")
		}
		first[w.Name], w.entry = i, i
		d.Workloads = append(d.Workloads, w)
	}
	if len(s.mistakes) == 0 { // else it would name what follows from them
		s.order(d)
		s.replicas(d)
	}
	if len(s.mistakes) == 0 {
		s.backends(d)
		s.peers(d)
	}
	return d
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

func number(v any) float64 {
	switch n := v.(type) {
	case uint64:
		return float64(n)
	case int64:
		return float64(n)
	case float64:
		return n
	}
	return 0
}

// quantity reads a size that the schema accepted; it can't overflow, since the
// schema allows 9 digits.
func quantity(s string) uint64 {
	shift := map[string]uint{"KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}[s[len(s)-3:]]
	n, err := strconv.ParseUint(s[:len(s)-3], 10, 32)
	if err != nil {
		return 0
	}
	return n << shift
}
