module vmferry.dev/lab

go 1.19

require (
	github.com/google/uuid v1.6.0
	github.com/vmware/govmomi v0.38.0
)
