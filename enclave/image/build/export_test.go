package build

// Shadowing looks for names of the second ramdisk that take the place of some in the first.
var Shadowing = shadowing
