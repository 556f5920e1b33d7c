module vmferry.dev/lab

go 1.19

require github.com/vmware/govmomi v0.38.0
