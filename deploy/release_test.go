package deploy

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/goreleaser/goreleaser/v2/pkg/config"
)

// GoReleaser reads its configuration without an unknown field, and what that names is
// there. The whole of `goreleaser check` would download some gigabytes.
func TestRelease(t *testing.T) {
	t.Parallel()
	release, err := config.Load("../.goreleaser.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if release.Version != 2 || len(release.Builds) != 1 || len(release.DockersV2) != 1 {
		t.Fatalf("version %d, %d builds, %d images", release.Version, len(release.Builds), len(release.DockersV2))
	}
	built := release.Builds[0]
	for _, system := range []string{"linux", "darwin", "windows"} {
		if !slices.Contains(built.Goos, system) {
			t.Errorf("nothing is built for %s", system)
		}
	}
	if !slices.Contains(built.Env, "CGO_ENABLED=0") {
		t.Error("the binary is not static, and would not run in its image")
	}
	files := []string{built.Main, release.DockersV2[0].Dockerfile}
	for _, file := range release.Archives[0].Files {
		files = append(files, strings.TrimSuffix(file.Source, "/*"))
	}
	for _, file := range files {
		if _, err := os.Stat("../" + file); err != nil {
			t.Error(err)
		}
	}
	for _, platform := range release.DockersV2[0].Platforms {
		system, arch, _ := strings.Cut(platform, "/")
		if !slices.Contains(built.Goos, system) || !slices.Contains(built.Goarch, arch) {
			t.Errorf("an image for %s, for which nothing is built", platform)
		}
	}
	chart, err := os.ReadFile("helm/pelton/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if image := release.DockersV2[0].Images[0]; !strings.Contains(string(chart), "repository: "+image+"\n") {
		t.Errorf("the chart does not use %s", image)
	}
}
