package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"

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
	switch {
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
		"publish": "entry of publish",
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

func explainType(field string, k *kind.Type) string {
	switch {
	case field == "memory" || field == "disk":
		return "write a whole number with KiB, MiB, GiB or TiB, like 64MiB"
	case field == "ports" && k.Got == "array":
		return "write an entry of allow for each, like - ports: 80/tcp"
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
	d := &Deployment{Name: text(root["name"]), Group: text(root["group"])}
	d.Networks = s.networks(root)
	first := map[string]int{}
	for i, item := range root["workloads"].([]any) {
		w := s.workload(item.(map[string]any), fmt.Sprintf("/workloads/%d", i), d.Networks)
		if j, twice := first[w.Name]; twice {
			s.add(s.placeOf(fmt.Sprintf("/workloads/%d/name", i)),
				fmt.Sprintf("the name %q is taken by the workload in line %d", w.Name, s.placeOf(fmt.Sprintf("/workloads/%d/name", j)).line),
				"give each workload a name of its own")
		}
		first[w.Name] = i
		d.Workloads = append(d.Workloads, w)
	}
	if len(s.mistakes) == 0 { // else it would name what follows from them
		s.backends(d)
		s.peers(d)
	}
	return d
}

func (s *source) workload(m map[string]any, pointer string, networks []Network) Workload {
	if m["kind"] == plan.KindGateway {
		return s.gateway(m, pointer)
	}
	w := Workload{
		Name: text(m["name"]), Kind: text(m["kind"]), Image: text(m["image"]), Node: text(m["node"]),
		WorkDir: text(m["workdir"]), User: text(m["user"]), Restart: text(m["restart"]),
		CPU: DefaultCPU, Memory: DefaultMemory, Disk: DefaultDisk, PIDs: DefaultPIDs,
	}
	if w.Restart == "" {
		w.Restart = DefaultRestart
	}
	w.Setuid, _ = m["setuid"].(bool)
	if list, ok := m["command"].([]any); ok {
		for _, a := range list {
			w.Command = append(w.Command, text(a))
		}
	}
	if env, ok := m["env"].(map[string]any); ok {
		w.Env = make(map[string]string, len(env))
		for k, v := range env {
			w.Env[k] = text(v)
		}
	}
	res, _ := m["resources"].(map[string]any)
	if v, ok := res["cpu"]; ok {
		milli := number(v) * 1000
		w.CPU = uint64(math.Round(milli))
		if math.Abs(milli-math.Round(milli)) > 1e-6 {
			s.add(s.placeOf(pointer+"/resources/cpu"), "cpu has more than three decimals", "round it to thousandths of a core")
		}
	}
	if v, ok := res["memory"]; ok {
		w.Memory = quantity(text(v))
	}
	if v, ok := res["disk"]; ok {
		w.Disk = quantity(text(v))
	}
	if v, ok := res["pids"]; ok {
		w.PIDs = uint64(number(v))
	}
	w.Networks = s.attachments(m, pointer, networks)
	return w
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
