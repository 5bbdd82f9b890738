package plan

import "slices"

// checkOrder refuses a workload that comes after one which the plan does not have,
// or after itself by way of others.
func (p Plan) checkOrder() error {
	after := make(map[string][]string, len(p.Workloads))
	for _, w := range p.Workloads {
		after[w.Name] = w.After
	}
	for _, w := range p.Workloads {
		if !slices.IsSorted(w.After) || len(slices.Compact(slices.Clone(w.After))) != len(w.After) {
			return invalid("workload %s: what it comes after is not sorted, or named twice", w.Name)
		}
		for _, name := range w.After {
			if _, ok := after[name]; !ok {
				return invalid("workload %s comes after %.80q, which the plan does not have", w.Name, name)
			}
		}
	}
	const visiting, done = 1, 2
	state := map[string]int{}
	var visit func(name string) error
	visit = func(name string) error {
		switch state[name] {
		case done:
			return nil
		case visiting:
			return invalid("workload %s comes after itself", name)
		}
		state[name] = visiting
		for _, before := range after[name] {
			if err := visit(before); err != nil {
				return err
			}
		}
		state[name] = done
		return nil
	}
	for _, w := range p.Workloads {
		if err := visit(w.Name); err != nil {
			return err
		}
	}
	return nil
}
