package cli

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestTrustedProxies(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		trusted, remote string
		headers         []string
		want            string
	}{
		"nobody is trusted":          {"", "10.0.0.1:5", []string{"1.2.3.4"}, "10.0.0.1:5"},
		"a stranger":                 {"10.0.0.0/8", "11.0.0.1:5", []string{"1.2.3.4"}, "11.0.0.1:5"},
		"a proxy":                    {"10.0.0.0/8", "10.0.0.1:5", []string{"1.2.3.4"}, "1.2.3.4:0"},
		"a proxy without the header": {"10.0.0.0/8", "10.0.0.1:5", nil, "10.0.0.1:5"},
		"what the caller made up":    {"10.0.0.0/8", "10.0.0.1:5", []string{"6.6.6.6, 1.2.3.4"}, "1.2.3.4:0"},
		"a trusted address made up":  {"10.0.0.0/8", "10.0.0.1:5", []string{"6.6.6.6, 10.9.9.9, 1.2.3.4"}, "1.2.3.4:0"},
		"two proxies":                {"10.0.0.0/8,192.168.1.1", "10.0.0.1:5", []string{"1.2.3.4,192.168.1.1"}, "1.2.3.4:0"},
		"two headers":                {"10.0.0.0/8", "10.0.0.1:5", []string{"6.6.6.6", "1.2.3.4"}, "1.2.3.4:0"},
		"all are proxies":            {"10.0.0.0/8", "10.0.0.1:5", []string{"10.0.0.3,10.0.0.2"}, "10.0.0.3:0"},
		"no address":                 {"10.0.0.0/8", "10.0.0.1:5", []string{"unknown"}, "10.0.0.1:5"},
		"no address before a proxy":  {"10.0.0.0/8", "10.0.0.1:5", []string{"x,10.0.0.2"}, "10.0.0.2:0"},
		"a port":                     {"10.0.0.1", "10.0.0.1:5", []string{"1.2.3.4:99"}, "1.2.3.4:0"},
		"v6":                         {"::1", "[::1]:5", []string{"2001:db8::7"}, "[2001:db8::7]:0"},
		"v6 in brackets":             {"::1", "[::1]:5", []string{"[2001:db8::7]"}, "[2001:db8::7]:0"},
		"v4 in v6":                   {"10.0.0.0/8", "[::ffff:10.0.0.1]:5", []string{"::ffff:1.2.3.4"}, "1.2.3.4:0"},
		"a chain without end":        {"10.0.0.0/8", "10.0.0.1:5", []string{"1.2.3.4" + strings.Repeat(",10.0.0.2", 100)}, "10.0.0.2:0"},
	} {
		var proxies proxiesValue
		if tc.trusted != "" {
			if err := proxies.Set(tc.trusted); err != nil {
				t.Fatal(err)
			}
		}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
		r.RemoteAddr = tc.remote
		r.Header["X-Forwarded-For"] = tc.headers
		got := ""
		proxies.trust(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.RemoteAddr })).ServeHTTP(httptest.NewRecorder(), r)
		if got != tc.want {
			t.Errorf("%s: the caller is %s, want %s", name, got, tc.want)
		}
		if r.RemoteAddr != tc.remote {
			t.Errorf("%s: the request of the server was changed", name)
		}
	}
	for _, wrong := range []string{"", "10.0.0.0/40", "host", "fe80::1%eth0", "10.0.0.1,"} {
		if err := new(proxiesValue).Set(wrong); err == nil {
			t.Errorf("%q is taken", wrong)
		}
	}
}
