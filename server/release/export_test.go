package release

import "context"

// Freshen is what Run does from time to time.
func (s *Service) Freshen(ctx context.Context) error { return s.freshen(ctx) }
