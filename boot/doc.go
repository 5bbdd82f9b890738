// Package boot is everything between the power button and the system: boot
// images, network boot files, the grid's archive, releases, and the logic of
// the first stage.
package boot
