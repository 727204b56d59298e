package pelton_test

import (
	"fmt"
	"time"

	"github.com/peltonq/pelton"
)

func ExampleNewKind() {
	type Email struct{ To string }
	type Receipt struct{ MessageID string }

	sendEmail := pelton.NewKind[Email, Receipt]("email.send",
		pelton.WithQueue("emails"), pelton.WithTimeout(30*time.Second))

	spec := sendEmail.Spec(pelton.WithPriority(pelton.High))
	fmt.Println(spec.Kind, spec.Queue, spec.Priority, spec.Timeout)
	// Output: email.send emails high 30s
}

func ExampleParseDuration() {
	for _, s := range []string{"90s", "1h30m", "7d", "soon"} {
		d, err := pelton.ParseDuration(s)
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(pelton.FormatDuration(d))
	}
	// Output:
	// 1m30s
	// 1h30m
	// 168h
	// invalid: "soon" is not a duration such as 90s, 1h30m or 7d
}
