package pelton

// Kind ties a name to the Go types of its payload and result, and to the
// defaults of its tasks. Declare it once, in a package that producers and
// workers share. The type parameters only guide the compiler: on the wire both
// are JSON.
type Kind[P, R any] struct {
	name     string
	defaults []Option
}

// NewKind declares a kind. opts are the defaults of its tasks; options given to
// Enqueue come after them and win. It panics on a name that ValidateKind
// refuses: kinds are declared in package variables, where a panic at start is
// what a typo deserves.
func NewKind[P, R any](name string, opts ...Option) Kind[P, R] {
	if err := ValidateKind(name); err != nil {
		panic("pelton.NewKind: " + err.Error())
	}
	return Kind[P, R]{name: name, defaults: opts}
}

// Name is the kind's name, as in Task.Kind.
func (k Kind[P, R]) Name() string { return k.name }

// Spec is a specification of this kind with its defaults and then opts applied.
// The payload is left for the caller.
func (k Kind[P, R]) Spec(opts ...Option) Spec {
	spec := Spec{Kind: k.name}
	spec.Apply(k.defaults...)
	spec.Apply(opts...)
	return spec
}
