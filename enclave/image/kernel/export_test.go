package kernel

// ModulesUpTo are [Modules] that take most bytes at most.
var ModulesUpTo = sorted
