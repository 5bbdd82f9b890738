package light

import "time"

// Hurry makes a client give up early on endpoints that lag.
func Hurry(c *Client) {
	for _, e := range c.endpoints {
		e.catchUp = 300 * time.Millisecond
	}
}

// Names for tests of the decoders.
var (
	DecodeStore     = decodeStore
	VerifyInclusion = verifyInclusion
)
