package engine

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mayfly-build/mayfly/internal/hint"
)

// annotations returns those of o for a place: of the manifest of t or its
// descriptor, or of the index, for which t is nil.
func (o Output) annotations(on AnnotationPlace, t *target) map[string]string {
	out := map[string]string{}
	for _, one := range []bool{false, true} { // a platform's own override those of all
		for _, a := range o.Annotations {
			if a.On == on && (a.Platform != "") == one && (!one || t != nil && a.Platform == t.platform.ID) {
				out[a.Key] = a.Value
			}
		}
	}
	return out
}

// checkAnnotations says which annotation has no place in the image.
func (o Output) checkAnnotations(index bool, p *product) error {
	switch o.Kind {
	case OutputTar, OutputLocal:
		return nil
	}
	for _, a := range o.Annotations {
		onIndex := a.On == OnIndex || a.On == OnIndexDescriptor
		switch {
		case onIndex && !index:
			return hint.With(fmt.Errorf("annotation %s: an image of one platform without attestations has no index", a.Key),
				"leave out index: and index-descriptor:, or build for several platforms")
		case o.DockerTypes && a.On != OnManifest:
			return fmt.Errorf("annotation %s: descriptors and indexes with oci-mediatypes=false have none", a.Key)
		case a.Platform != "" && !slices.ContainsFunc(p.targets, func(t *target) bool { return t.platform.ID == a.Platform }):
			var ids []string
			for _, t := range p.targets {
				ids = append(ids, t.platform.ID)
			}
			return hint.With(fmt.Errorf("annotation %s: no image is built for %s", a.Key, a.Platform), "the platforms are "+strings.Join(ids, ", "))
		case a.Key == "":
			return errors.New("an annotation has no key")
		}
	}
	return nil
}
